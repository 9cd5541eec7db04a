FROM yakumo-stand-in:backends
COPY rabbitmq-entrypoint /usr/local/bin/
ENV HOME=/var/lib/rabbitmq PATH=/usr/local/bin:/usr/lib/rabbitmq/bin:/usr/sbin:/usr/bin:/sbin:/bin RABBITMQ_LOGS=- LC_ALL=C.UTF-8
VOLUME /var/lib/rabbitmq
EXPOSE 5672
ENTRYPOINT ["rabbitmq-entrypoint"]
CMD ["rabbitmq-server"]
